"""The formulas of the update rules, a file each."""
