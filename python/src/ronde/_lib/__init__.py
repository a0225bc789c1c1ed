"""Where libronde.so is."""
