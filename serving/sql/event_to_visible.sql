-- one row: the actions of [$since, $until), how many of them a row readable by $until holds, and
-- the seconds until the first such row was readable: median and 99th percentile
-- Reads `activity` and `member_rows`, a view's snapshots and streamed rows.
with
actions as (
    select
        member_id,
        event_timestamp,
    from activity
    where
        event_timestamp >= $since
        and event_timestamp < $until
        and list_contains($actions, action)
),

-- A row holds what its member did up to last_action_at; so does any later one.
readable as (
    select
        member_id,
        last_action_at,
        min(created_timestamp) over (
            partition by member_id order by last_action_at desc
        ) as readable_at,
    from member_rows
    where created_timestamp >= $since and created_timestamp <= $until
),

seen as (
    select
        actions.event_timestamp,
        readable.readable_at,
        epoch(readable.readable_at) - epoch(actions.event_timestamp) as seconds,
    from actions
    asof left join readable
        on
            actions.member_id = readable.member_id
            and actions.event_timestamp <= readable.last_action_at
),

event_to_visible as (
    select
        count(*) as n_actions,
        count(readable_at) as n_visible,
        quantile_cont(seconds, 0.5) as p50,
        quantile_cont(seconds, 0.99) as p99,
    from seen
)

select * from event_to_visible
