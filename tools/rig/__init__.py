"""The rig: ordinary KVM where the host has none.

QEMU emulates an AMD CPU with SVM; Debian's full kernel boots on it, with this machine's file system as its root, and
loads kvm-amd: inside, /dev/kvm is an ordinary KVM. About ten times slower than the host.
"""
