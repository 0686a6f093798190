-- every rule that a row of member_sequences breaks, one row each
-- The column as_of is that of the partition that a row lies in; there may be several.
with
rows_of_snapshot as (
    select
        *,
        list_sum([*columns(lambda c: list_contains($counts, c))]) as n_counted,
    from member_sequences
),

rows_in_order as (
    select
        as_of,
        member_id,
        as_of = lag(as_of) over () and member_id <= lag(member_id) over () as is_behind,
    from member_sequences
),

-- That the members ascend costs a thirtieth of counting the rows of each.
repeated as (
    select
        'member_id is unique, and ascends' as rule,
        as_of,
        member_id,
    from rows_in_order
    where is_behind
),

neighbours as (
    select
        as_of,
        member_id,
        unnest(event_timestamps[:-2]) as earlier,
        unnest(event_timestamps[2:]) as later,
    from member_sequences
),

disordered as (
    select distinct
        'event_timestamps ascend' as rule,
        as_of,
        member_id,
    from neighbours
    where later < earlier or later is null or earlier is null
),

broken as (
    select
        case
            when member_id is null then 'member_id is not null'
            when coalesce(event_timestamp <> as_of, true) then 'event_timestamp is as_of'
            when created_timestamp < event_timestamp then 'created_timestamp is not before as_of'
            when len(item_ids) not between 0 and $length then 'length is 1 to the maximum, or 0'
            when
                coalesce(len(actions) <> len(item_ids), true)
                or coalesce(len(event_timestamps) <> len(item_ids), true)
                then 'lists are of equal length'
            when coalesce(n_actions <> len(item_ids), true) then 'n_actions is the length'
            when coalesce(n_counted <> n_actions, true) then 'counts add up to n_actions'
            when wrong_column is not null then wrong_column || ' is what its check gives'
            when
                coalesce(event_timestamps <> list_sort(event_timestamps), true)
                then 'event_timestamps ascend'
            when
                -- They ascend, so the first and the last are enough.
                event_timestamps[1] < as_of - $window_length
                or event_timestamps[-1] >= as_of
                then 'event_timestamps lie in the window'
            when
                n_actions > 0
                and coalesce(last_action_at <> event_timestamps[-1], true)
                then 'last_action_at is the last time'
            when
                n_actions = 0
                and (last_action_at is null or last_action_at >= as_of - $window_length)
                then 'a lapsed member''s last_action_at lies before the window'
            when list_position(item_ids, null) > 0 then 'item_ids hold no null'
            when
                len(list_filter(actions, lambda a: not list_contains($actions, a))) > 0
                then 'actions are configured'
        end as rule,
        as_of,
        member_id,
    from rows_of_snapshot
),

offending as (
    select * from repeated
    union all
    select * from disordered
    union all
    select * from broken
    where rule is not null
)

select * from offending
