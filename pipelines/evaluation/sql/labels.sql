-- one row per action with a sign in [$since, $before) of a sampled member: the member's first one
-- on an item that was known by the midnight before; at most $per_member of a member and sign
-- Reads `activity` and `known_items`.
with
sampled as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        sign > 0 as positive,
    from activity
    where
        list_contains($actions, action)
        and sign <> 0
        and hash(member_id, $seed) % 1000000 < $share * 1000000
),

signed as (
    select
        sampled.*,
        known_items.available_at,
    from sampled
    inner join known_items on sampled.item_id = known_items.item_id
),

news as (
    select *
    from signed
    qualify row_number() over (
        partition by member_id, item_id order by event_timestamp, action
    ) = 1
),

of_the_period as (
    select
        *,
        date_trunc('day', event_timestamp) as midnight,
    from news
    where
        event_timestamp >= $since
        and event_timestamp < $before
        and (not positive or list_contains($predicted, action))
),

kept as (
    select *
    from of_the_period
    where available_at <= midnight
    qualify row_number() over (
        partition by member_id, positive order by hash(item_id, $seed), item_id
    ) <= $per_member
),

labels as (
    select
        row_number() over (order by event_timestamp, member_id, item_id, action) - 1 as label,
        member_id,
        item_id,
        action,
        event_timestamp,
        positive,
        midnight,
    from kept
    order by label
)

select * from labels
