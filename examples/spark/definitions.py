"""What `feast apply` registers for this workspace."""

from feature_repo.workspace import declared

globals().update(declared(__file__))
