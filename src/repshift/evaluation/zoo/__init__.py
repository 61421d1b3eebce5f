"""What runs offline, and how every model the command line knows is loaded."""
