-- one row per member to be shown: $count of those with most kinds of action and no short history
-- Reads `sequences`. The same ones each time.
with
candidates as (
    select
        member_id,
        item_ids,
        actions,
        event_timestamps,
        len(list_distinct(actions)) as n_kinds,
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
    order by n_kinds desc, least(len(item_ids), 8) desc, md5(member_id::varchar) asc, member_id asc
    limit $count
)

select * from shown_members
