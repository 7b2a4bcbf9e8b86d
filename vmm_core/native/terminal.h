/* SPDX-License-Identifier: MIT
 *
 * Remember a terminal's settings and restore them, also from the handlers of fatal signals.
 */
#ifndef STRATOCELL_TERMINAL_H
#define STRATOCELL_TERMINAL_H

/* Save the settings of terminal `fd` and restore them when a fatal signal ends the process. 0; -1: `fd` is no terminal.
 */
int sc_terminal_guard(int fd);

/* Restore the saved settings, once. */
void sc_terminal_restore(void);

#endif
