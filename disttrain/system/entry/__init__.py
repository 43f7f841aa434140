"""Nothing but the script that starts this package's processes: its folder comes first on their `sys.path`."""
