-- every rule that a row of training_examples breaks, one row each
-- Also reads `day_items` and `item_indexes`. Needs macros.sql.
with
examples as (
    select
        *,
        day_of(epoch_us(happened_at)) as day,
    from training_examples
),

repeated as (
    select
        'member_id, as_of and label are unique' as rule,
        member_id,
        as_of,
        label_item_id,
        label_action,
        label_timestamp,
    from examples
    where not is_random
    group by member_id, as_of, label_item_id, label_action, label_timestamp
    having count(*) > 1
),

items_of_days as (
    select
        day_items.day,
        item_indexes.item_id,
    from day_items
    inner join item_indexes on day_items.item_index = item_indexes.item_index
),

not_of_the_day as (
    select
        'the item of a random negative was acted on that day' as rule,
        examples.member_id,
        examples.as_of,
        examples.label_item_id,
        examples.label_action,
        examples.label_timestamp,
    from examples
    anti join
        items_of_days
        on examples.day = items_of_days.day and examples.label_item_id = items_of_days.item_id
    where examples.is_random
),

broken as (
    select
        case
            when
                member_id is null or as_of is null or label_item_id is null
                or label_action is null or label_timestamp is null or happened_at is null
                or is_positive is null or is_random is null or weight is null
                then 'nothing but an action''s item may be null'
            when coalesce(len(item_ids) not between 1 and $length, true)
                then 'length is 1 to the maximum'
            when
                coalesce(len(actions) <> len(item_ids), true)
                or coalesce(len(event_timestamps) <> len(item_ids), true)
                then 'lists are of equal length'
            when
                list_count(item_ids) < len(item_ids)
                or list_count(actions) < len(item_ids)
                or list_count(event_timestamps) < len(item_ids)
                then 'lists hold no null'
            when event_timestamps <> list_sort(event_timestamps) then 'event_timestamps ascend'
            when
                -- They ascend, so the first and the last are enough.
                event_timestamps[1] < as_of - $window_length or event_timestamps[-1] >= as_of
                then 'event_timestamps lie in the window before as_of'
            when happened_at < as_of then 'a label does not happen before as_of'
            when $inputs = 'snapshot' and as_of <> date_trunc('day', as_of)
                then 'a snapshot is of midnight'
            when $inputs = 'snapshot' and as_of + $publish_delay > happened_at
                then 'a snapshot is readable when its label happens'
            when $labels = 'next' and $inputs = 'before_label' and as_of <> happened_at
                then 'a window ends right before its label'
            when
                $labels = 'next' and $inputs = 'snapshot'
                and as_of + interval 1 day + $publish_delay <= happened_at
                then 'a snapshot is the newest that was readable'
            when happened_at >= $until or happened_at < $since then 'labels lie in their time'
            when is_random and abs(epoch_us(label_timestamp) - epoch_us(happened_at)) > $shift_us
                then 'a random negative is moved by no more than its shift'
            when not is_random and label_timestamp <> happened_at
                then 'a label''s time is when it happened'
            when
                is_random and (is_positive or not starts_with(label_action, 'RANDOM_NEGATIVE_FOR_'))
                then 'a random negative is a negative of its own name'
            when
                not is_random and is_positive and not list_contains($positives, label_action)
                then 'a positive label is of a positive action'
            when
                not is_random and not list_contains($actions, label_action)
                then 'labels are configured actions'
            when len(list_filter(actions, lambda a: not list_contains($input_names, a))) > 0
                then 'actions are configured'
            when not weight > 0 then 'weights are above 0'
        end as rule,
        member_id,
        as_of,
        label_item_id,
        label_action,
        label_timestamp,
    from examples
),

offending as (
    select * from repeated
    union all
    select * from not_of_the_day
    union all
    select * from broken
    where rule is not null
)

select * from offending
