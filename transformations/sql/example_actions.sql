-- one row per action that is known at `until`, of any member, with its place among that member's
-- Reads `activity` and `item_places`. Moments and lengths of time are microseconds (since 1970).
with
with_places as (
    select
        activity.*,
        item_places.place as item_place,
    from activity
    inner join item_places on activity.item_id = item_places.item_id
),

known as (
    select
        member_id,
        item_place,
        list_position(list_sort($names), action) as action_place,
        list_contains($positives, action) as is_positive,
        epoch_us(event_timestamp) as moment,
        coalesce(epoch_us(ingested_at), 0) as known_at,
        -- What the draws come from: neither the order of the rows nor other rows are in it.
        hash(member_id, item_id, action, event_timestamp) as identity,
    from with_places
    where
        event_timestamp < $until
        and (ingested_at is null or ingested_at < $until)
        and list_contains($actions, action)
),

numbered as (
    select
        *,
        row_number() over in_order as position,
        count(*) over (partition by member_id) as n_actions,
        moment - lag(moment) over in_order as gap,
    from known
    window in_order as (partition by member_id order by moment, item_place, action_place)
),

example_actions as (
    select
        * exclude (gap),
        max(case when gap is null or gap >= $session_gap_us then moment end)
            over (partition by member_id order by position)
            as session_started_at,
    from numbered
)

select * from example_actions
