"""Reading any table of measurements; writing solutions."""
