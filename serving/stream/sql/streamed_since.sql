-- one row per member that the stream wrote after $as_of: its newest row of member_sequences
-- Reads `streamed`: the streamed parts of the table.
with
newest as (
    select
        member_id,
        event_timestamp,
        item_ids,
        actions,
        event_timestamps,
        last_action_at,
    from streamed
    where event_timestamp > $as_of
    qualify row_number() over (partition by member_id order by event_timestamp desc) = 1
)

select * from newest
