-- one row per action that a snapshot may hold: in the order of member_id, event_timestamp, item_id
-- and action
-- Reads the table `activity`.
with
ordered_actions as (
    select
        member_id,
        item_id,
        (list_position(list_sort($actions), action) - 1)::tinyint as action_place,
        event_timestamp,
        -- A snapshot sees an action if both lie before its as_of; greatest() leaves nulls out.
        greatest(event_timestamp, ingested_at) as known_at,
        attributes,
    from activity
    where
        event_timestamp >= $first_timestamp
        and event_timestamp < $last_timestamp
        and list_contains($actions, action)
    order by member_id, event_timestamp, item_id, action_place
)

select * from ordered_actions
