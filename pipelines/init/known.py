"""Well-known names: of columns, and of actions with their signs."""

from transformations.names import plain
from transformations.rules import Sign


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MEMBERS = _words("""
    member user customer client account person profile visitor viewer player reader listener
    subscriber shopper buyer learner student employee candidate reviewer
""")
ITEMS = _words("""
    item product job movie film wine game article sku asin book song track video course lesson
    listing property content show recipe document offer hotel restaurant place news story posting
    vacancy podcast episode app beer
""")
ROLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "action": (
        ("action",),
        ("event_type", "action_type", "event_name", "interaction", "interaction_type", "verb"),
        ("event", "type", "activity", "behavior", "behaviour", "behavior_type", "kind"),
    ),
    "event_timestamp": (
        ("event_timestamp",),
        ("event_time", "event_ts", "event_date", "timestamp", "ts", "occurred_at", "happened_at"),
        ("created_at", "datetime", "date_time", "time", "date", "unixtime", "epoch", "at", "when"),
    ),
    "ingested_at": (
        ("ingested_at",),
        ("received_at", "loaded_at", "inserted_at", "ingestion_time", "ingestion_timestamp"),
    ),
    "available_at": (
        ("available_at",),
        ("available_from", "available", "first_seen", "first_seen_at", "valid_from"),
        ("posted_at", "posted", "published_at", "published", "publish_date", "released_at"),
        ("release_date", "listed_at", "opened_at", "added_at", "created_at", "created"),
        ("start_date", "starts_at", "created_timestamp"),
    ),
    "available_until": (
        ("available_until",),
        ("valid_until", "valid_to", "expires_at", "expires", "expired_at", "expiry"),
        ("closed_at", "closes_at", "closed", "ends_at", "ended_at", "end", "end_date"),
        ("removed_at", "delisted_at", "deadline"),
    ),
    "embedding": (("embedding",), ("vector", "embeddings", "emb", "features")),
}
TEXTS = _words("title name headline text description summary body abstract content plot")


def _of_ids(own: str, stems: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return (
        (own,),
        tuple(f"{stem}_id" for stem in stems),
        tuple(
            form
            for stem in stems
            for form in (
                stem,
                f"{stem}id",
                f"{stem}_key",
                f"{stem}_uuid",
                f"{stem}_no",
                f"id_{stem}",
            )
        ),
    )


ROLES["member_id"] = (*_of_ids("member_id", MEMBERS), ("uid",))
ROLES["item_id"] = (*_of_ids("item_id", ITEMS), ("iid",))
"""What a column is → names that say so, the surest first."""

SIGNS: dict[Sign, tuple[str, ...]] = {
    "positive": _words("""
        apply application save like love favorite favourite fav star heart buy purchase order
        checkout cart basket enroll enrol register signup play listen stream click open view visit
        read watch rate wish wishlist follow subscribe bookmark download share add book reserve
        complete finish start install upvote recommend good accept hire reply contact
        transaction addtocart
    """),
    "negative": _words("""
        dismiss skip dislike hide report unsave unlike unfollow unsubscribe uninstall unfavorite
        unfavourite remove delete reject decline block ban mute cancel return refund abandon
        withdraw downvote bad hate ignore removefromcart
    """),
}
"""Verbs of well-known actions; the other negative ones begin with `not_` or `un`."""


def sign_of(action: str) -> Sign | None:
    """Return what an action's name says of it; None where it says nothing.

    A word of it is enough, in any form; a negative word outweighs the others.

    >>> sign_of("APPLY"), sign_of("add-to-cart"), sign_of("Skipped"), sign_of("thumbs_down")
    ('positive', 'positive', 'negative', 'negative')
    >>> sign_of("remove_from_wishlist"), sign_of("NotInterested"), sign_of("impression")
    ('negative', 'negative', None)
    """
    name = plain(action)
    words = [name, *name.split("_")]
    if name.startswith("not_") or "thumbs_down" in name or "thumb_down" in name:
        return "negative"
    for sign in ("negative", "positive"):
        if any(form in SIGNS[sign] for word in words for form in _forms(word)):
            return sign
    if any(name.startswith("un") and form in SIGNS["positive"] for form in _forms(name[2:])):
        return "negative"
    return "positive" if "thumbs_up" in name or "thumb_up" in name else None


def _forms(word: str) -> set[str]:
    """Return what a word may be a form of: applied, skipping, saves, liked, dismisses."""
    forms = {word}
    for ending in ("s", "es", "d", "ed", "ing"):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            forms |= {stem, f"{stem}e"}
            if stem.endswith("i"):
                forms.add(f"{stem[:-1]}y")
            if len(stem) > 2 and stem[-1] == stem[-2]:
                forms.add(stem[:-1])
    return forms | {"buy"} if word == "bought" else forms
