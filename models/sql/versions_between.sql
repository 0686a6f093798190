-- one row per item and version that is the newest at some moment from $first_as_of to $as_of, an
-- item's together and oldest first. Reads `items`.
with
available as (
    select
        item_id,
        embedding,
        available_at,
        lead(available_at) over (partition by item_id order by available_at) as followed_at,
    from items
    where available_at <= $as_of
),

versions_between as (
    select
        item_id,
        embedding,
        epoch_us(available_at) as available_at,
    from available
    where coalesce(followed_at > $first_as_of, true)
    order by item_id, available_at
)

select * from versions_between
