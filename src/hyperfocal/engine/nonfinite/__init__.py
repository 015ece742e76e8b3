"""Steps whose loss or gradient isn't finite: detection, records and likely causes."""
