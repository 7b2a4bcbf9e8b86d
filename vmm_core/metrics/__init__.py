"""Programs beside the VM that show what its processes use: `stratovirt-exporter` and `stratovirt-top`."""
