-- one row per action visible at `until`, with its position among the member's actions
-- Reads `activity`, `item_indexes`, `other_items`, `action_shares`. Times and durations are
-- microseconds.
with
with_indexes as (
    select
        activity.*,
        item_indexes.item_index,
        other_items.item_id is null as is_candidate,
        action_shares.action_share,
    from activity
    inner join item_indexes on activity.item_id = item_indexes.item_id
    left join other_items on activity.item_id = other_items.item_id
    left join action_shares on activity.action = action_shares.action
),

visible as (
    select
        member_id,
        item_index,
        list_position(list_sort($names), action) as action_index,
        is_candidate,
        is_candidate and sign > 0 and list_contains($predicted, action) as is_positive,
        is_candidate and sign < 0 as is_negative,
        attributes,
        action_share,
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
        is_positive or is_negative as is_label,
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
