-- one row per member to show: the $count with the most distinct actions, long histories first
-- Reads `sequences`. Always the same members.
with
candidates as (
    select
        member_id,
        item_ids,
        actions,
        event_timestamps,
        len(list_distinct(actions)) as n_distinct,
    from sequences
    where n_actions > 0
),

shown_members as (
    select
        member_id,
        item_ids,
        actions,
        event_timestamps,
    from candidates
    order by
        n_distinct desc, least(len(item_ids), 8) desc, md5(member_id::varchar) asc, member_id asc
    limit $count
)

select * from shown_members
