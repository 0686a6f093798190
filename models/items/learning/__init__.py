"""What item encoders are fitted with: pairs of actions, SVD, ridge, windows, training, bytes."""
