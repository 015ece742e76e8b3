"""Steps whose loss or gradient is not finite: found, recorded, explained."""
