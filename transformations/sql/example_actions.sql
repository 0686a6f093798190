-- one row per action visible at `until`, with its position among the member's actions
-- Reads `activity` and `item_indexes`. Times are microseconds since 1970, durations microseconds.
with
with_indexes as (
    select
        activity.*,
        item_indexes.item_index,
    from activity
    inner join item_indexes on activity.item_id = item_indexes.item_id
),

visible as (
    select
        member_id,
        item_index,
        list_position(list_sort($names), action) as action_index,
        sign > 0 as is_positive,
        sign <> 0 as is_label,
        epoch_us(event_timestamp) as event_us,
        coalesce(epoch_us(ingested_at), 0) as known_at,
        -- Seed of the draws: independent of other rows and of their order.
        hash(member_id, item_id, action, event_timestamp) as identity,
    from with_indexes
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
        event_us - lag(event_us) over in_order as gap,
    from visible
    window in_order as (partition by member_id order by event_us, item_index, action_index)
),

example_actions as (
    select
        * exclude (gap),
        max(case when gap is null or gap >= $session_gap_us then event_us end)
            over (partition by member_id order by position)
            as session_started_at,
    from numbered
)

select * from example_actions
