-- one row per length of a sequence: how many members have it. Reads `sequences`.
with
sequence_lengths as (
    select
        n_actions,
        count(*) as members,
    from sequences
    -- A member whose last action left the window has a row with an empty sequence.
    where n_actions > 0
    group by n_actions
    order by n_actions
)

select * from sequence_lengths
