"""What a completion earns: functions by name, called where one that hangs or fails costs its row alone."""
