"""What has to hold before something may serve: nothing from the future, the same everywhere."""
