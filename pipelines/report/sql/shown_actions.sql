-- one row per action of a shown member, its last $count. Reads `shown_members` and `item_texts`.
with
actions as (
    select
        member_id,
        unnest(event_timestamps) as event_timestamp,
        unnest(actions) as action,
        unnest(item_ids) as item_id,
        generate_subscripts(item_ids, 1) as position,
    from shown_members
),

newest as (
    select *
    from actions
    qualify row_number() over (partition by member_id order by position desc) <= $count
),

shown_actions as (
    select
        newest.member_id,
        newest.event_timestamp,
        newest.action,
        newest.item_id,
        item_texts.text,
    from newest
    left join item_texts on newest.item_id = item_texts.item_id
    order by newest.member_id asc, newest.position desc
)

select * from shown_actions
