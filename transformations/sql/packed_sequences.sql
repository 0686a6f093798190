-- one row per member and as_of: its last $length actions in the window, packed, oldest first; a
-- member of the previous snapshot with no action left in the window has an empty list
-- Reads `activity` from the previous window's start on, and `item_indexes`. Needs macros.sql.
-- The rule of a sequence stands in three places: packed_sequences.sql, example_windows.sql and
-- `fold` in transformations/stream.py. tests/transformations/test_sequence_properties.py,
-- test_example_properties.py and test_stream_properties.py prove them equal.
with
visible as not materialized (
    select
        *,
        list_position(list_sort($actions), action) as action_index,
    from activity
    where
        event_timestamp < $as_of
        and (ingested_at is null or ingested_at < $as_of)
        and list_contains($actions, action)
),

recent as (
    select *
    from visible
    where event_timestamp >= $as_of - $window_length
),

-- Lists of numbers are collected and sorted about four times as fast as lists of structs. item_id
-- and action are packed as indexes in their sort order, so ids may be of any type.
packed as (
    select
        recent.member_id,
        pack(
            epoch_us(recent.event_timestamp), item_indexes.item_index, recent.action_index
        ) as packed_action,
    from recent
    inner join item_indexes on recent.item_id = item_indexes.item_id
),

in_window as (
    select
        member_id,
        list_sort(list(packed_action)) as packed_actions,
    from packed
    group by member_id
),

before_window as (
    select
        *,
        event_timestamp < $previous_as_of
        and (ingested_at is null or ingested_at < $previous_as_of) as was_in_window,
    from visible
    where
        event_timestamp >= $previous_as_of - $window_length
        and event_timestamp < $as_of - $window_length
),

lapsed as (
    select
        before_window.member_id,
        max(before_window.event_timestamp) as last_action_at,
    from before_window
    anti join in_window on before_window.member_id = in_window.member_id
    group by before_window.member_id
    having bool_or(before_window.was_in_window)
),

packed_sequences as (
    select
        member_id,
        packed_actions[-$length:] as packed_actions,
        len(packed_actions) as n_visible,
        timestamp_of(packed_actions[-1]) as last_action_at,
    from in_window
    union all
    select
        member_id,
        [] as packed_actions,
        0 as n_visible,
        last_action_at,
    from lapsed
    order by member_id
)

select * from packed_sequences
