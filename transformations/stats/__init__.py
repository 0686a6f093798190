"""What members did, as plain numbers: of an item, of a member."""
