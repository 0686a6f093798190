-- one row per member that the stream wrote after $as_of: its newest row of member_sequences
-- Reads `streamed`: the streamed parts of the table.
with
newest as (
    select *
    from streamed
    where event_timestamp > $as_of
    qualify row_number() over (partition by member_id order by event_timestamp desc) = 1
)

select * from newest  -- noqa: AM04
