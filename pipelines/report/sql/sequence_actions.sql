-- one row per action name: how often it occurs in the sequences. Reads `sequences`.
with
actions as (
    select unnest(actions) as action,
    from sequences
),

sequence_actions as (
    select
        action,
        count(*) as times,
    from actions
    group by action
    order by times desc, action asc
)

select * from sequence_actions
