"""What the arms of an experiment were shown and did, read from impressions and activity."""
