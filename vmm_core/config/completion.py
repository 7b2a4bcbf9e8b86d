"""Shell completion, generated from the option table: `python -m vmm_core.config.completion bash|zsh`.

Both shells share three lookup functions (which classes an option has, which keys a class has, which values a key has)
and differ in the few lines that ask for the word under the cursor and offer the candidates.
"""

from __future__ import annotations

import sys

from vmm_core.config.catalogue import IGNORED_MARK, bodies, documented_keys
from vmm_core.config.kinds import Kind, Path
from vmm_core.config.options import OPTIONS
from vmm_core.config.table import Body, Option

_FILES = "@files"

_LOOKUP = """\
_stratovirt_options() {{
  echo "{options}"
}}
_stratovirt_classes() {{
  case "$1" in
{classes}
  esac
}}
_stratovirt_keys() {{
  case "$1" in
{keys}
  esac
}}
_stratovirt_values() {{
  case "$1" in
{values}
  esac
}}
# Sets `candidates` to whole words for the option $1 and the word $2; `files` to the start of a file name, if one fits.
_stratovirt_candidates() {{
  local option=$1 current=$2 head="" word=$2 class="" key item
  candidates=() files="" file_head=""
  case "$current" in *,*) head="${{current%,*}}," word="${{current##*,}}" ;; esac
  if [ -n "$(_stratovirt_classes "$option")" ]; then
    class="${{current%%,*}}"
    if [ -z "$head" ]; then
      candidates=($(_stratovirt_classes "$option"))
      return
    fi
  fi
  case "$word" in
    *=*) key="${{word%%=*}}" head="$head$key=" word="${{word#*=}}" ;;
    *) key="" ;;
  esac
  for item in $(if [ -n "$key" ]; then _stratovirt_values "$option:$class:$key"
                else _stratovirt_keys "$option:$class"
                  if [ "$head" = "" ]; then _stratovirt_values "$option::"; fi; fi); do
    if [ "$item" = "@files" ]; then
      files=$word file_head=$head
    else
      candidates+=("$head$item")
    fi
  done
}}
"""

_BASH = """\
# bash completion for stratovirt; generated from its option table.
{lookup}
_stratovirt() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" current option="" item files file_head
  local -a words candidates
  current="${{line##*[[:space:]]}}"
  read -ra words <<< "${{line%"$current"}}"
  for item in "${{words[@]:1}}"; do
    case "$item" in -*) option="${{item#-}}" ;; esac
  done
  case "$current" in
    -*) candidates=($(_stratovirt_options)) files="" ;;
    *) _stratovirt_candidates "$option" "$current" ;;
  esac
  if [ -n "$file_head$files" ] || [ "$(_stratovirt_values "$option::")" = "@files" ]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r item; do candidates+=("$file_head$item"); done < <(compgen -f -- "$files")
  fi
  # Readline splits words at = and :, so what stands before them is not part of the reply.
  local typed="${{current%"${{current##*[=:]}}"}}"
  COMPREPLY=()
  for item in "${{candidates[@]}}"; do
    case "$item" in "$current"*) COMPREPLY+=("${{item#"$typed"}}") ;; esac
  done
  case "${{COMPREPLY[0]-}}" in *[=:]) compopt -o nospace 2>/dev/null ;; esac
}}
complete -F _stratovirt stratovirt
"""

_ZSH = """\
#compdef stratovirt
# zsh completion for stratovirt; generated from its option table.
{lookup}
_stratovirt() {{
  local current="$PREFIX" option="" item files file_head
  local -a candidates
  for item in "${{(@)words[2,CURRENT-1]}}"; do
    case "$item" in -*) option="${{item#-}}" ;; esac
  done
  case "$current" in
    -*) candidates=($(_stratovirt_options)) files="" ;;
    *) _stratovirt_candidates "$option" "$current" ;;
  esac
  if [ -n "$file_head$files" ] || [ "$(_stratovirt_values "$option::")" = "@files" ]; then
    if [ -n "$file_head" ]; then compset -P '*='; fi
    _files
  fi
  compadd -S '' -- "${{(@M)candidates:#*[=:]}}"
  compadd -- "${{(@)candidates:#*[=:]}}"
}}
_stratovirt "$@"
"""


def script(shell: str) -> str:
    """Return the completion script for `bash` or `zsh`."""
    template = {"bash": _BASH, "zsh": _ZSH}[shell]
    return template.format(lookup=_lookup())


def _lookup() -> str:
    names = [f"-{name}" for option in OPTIONS for name in (option.name, *option.aliases)]
    classes: list[str] = []
    keys: list[str] = []
    values: list[str] = []
    for option in OPTIONS:
        if option.mark == IGNORED_MARK:
            continue
        tables = bodies(option)
        named = [body.name.replace(":ID", ":") for body in tables if body.name]
        if named:
            classes.append(_case(option.name, named))
        if option.kind and not tables:
            values.append(_case(f"{option.name}::", _words(option.kind)))
        for body in tables:
            keys.append(_case(f"{option.name}:{body.name}", _key_words(body)))
            values += _value_cases(option, body)
    return _LOOKUP.format(
        options=" ".join(names),
        classes="\n".join(classes),
        keys="\n".join(keys),
        values="\n".join(filter(None, values)),
    )


def _key_words(body: Body) -> list[str]:
    return [f"{key.name}=" if key.kind.metavar else key.name for key in documented_keys(body)]


def _value_cases(option: Option, body: Body) -> list[str]:
    cases = []
    for key in documented_keys(body):
        words = _words(key.kind)
        if words:
            cases.append(_case(f"{option.name}:{body.name}:{key.name}", words))
            if key.name == body.first:
                cases.append(_case(f"{option.name}::", words))
    return cases


def _words(kind: Kind) -> list[str]:
    if isinstance(kind, Path):
        return [_FILES]
    return list(kind.completions)


def _case(pattern: str, words: list[str]) -> str:
    return f"    '{pattern}') echo \"{' '.join(words)}\" ;;" if words else ""


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("bash", "zsh"):
        sys.exit("usage: python -m vmm_core.config.completion bash|zsh")
    sys.stdout.write(script(sys.argv[1]))
