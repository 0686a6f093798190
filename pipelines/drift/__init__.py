"""What the newest day's data are like beside those of the days before: measured, judged, told."""
