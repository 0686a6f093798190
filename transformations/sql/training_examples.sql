-- one row per window and label: a member's last actions before as_of, and an action that followed
-- or a random negative drawn for it; shuffled by the seed
-- Reads `example_windows`, `example_actions`, `random_negatives`, `item_indexes`. Needs macros.sql.
with
names as (
    select
        coalesce(list(item_id order by item_index), []) as items,
        list_sort($names) as action_names,
    from item_indexes
),

windows as (
    select
        *,
        unnest(range(first_label, last_label + 1)) as label_position,
        case
            when $labels = 'next' then 9223372036854775807
            else labels_from + $horizon_us
        end as labels_until,
        list_filter(
            packed_actions,
            lambda a: not starts_with(
                list_sort($names)[action_of(a)], 'RANDOM_NEGATIVE_FOR_'
            )
        )[-1] as last_own_action,
    from example_windows
    where n_inputs > 0
),

followed_by as (
    select
        windows.*,
        actions.* exclude (actions.member_id, actions.attributes),
    from windows
    inner join
        example_actions as actions
        on windows.member_id = actions.member_id and windows.label_position = actions.position
),

labels as (
    select
        *,
        -- Draw 0 is the action itself, the others are its random negatives.
        unnest(range(0, 1 + case when is_positive then $random_negatives else 0 end)) as draw,
    from followed_by
    where
        is_label
        and event_us >= $since_us
        and event_us < labels_until
        and (
            not $skip_own_session
            or coalesce(us_of(last_own_action) < session_started_at, true)
        )
),

drawn as (
    select
        labels.member_id,
        labels.as_of,
        labels.packed_actions,
        labels.carried,
        weight_of(labels.n_actions, labels.action_share) as factor,
        labels.event_us as happened_at,
        coalesce(random_negatives.event_us, labels.event_us) as event_us,
        coalesce(random_negatives.item_index, labels.item_index) as item_index,
        coalesce(random_negatives.action_index, labels.action_index) as action_index,
        labels.is_positive and labels.draw = 0 as is_positive,
        labels.draw > 0 as is_random,
        labels.draw,
    from labels
    left join
        random_negatives
        on
            labels.member_id = random_negatives.member_id
            and labels.position = random_negatives.position
            and labels.draw = random_negatives.draw
),

keyed as (
    select
        *,
        hash($seed, member_id, as_of, happened_at, item_index, action_index, draw) as shuffle,
    from drawn
),

-- Shuffled while packed, which moves a third of the bytes.
shuffled as (
    select *
    from keyed
    order by
        shuffle,
        member_id,
        as_of,
        happened_at,
        item_index,
        action_index,
        draw
),

named as (
    select
        shuffled.*,
        names.*,
    from shuffled
    cross join names
),

training_examples as (
    select
        member_id,
        make_timestamptz(as_of) as as_of,
        list_transform(
            packed_actions, lambda a: items[item_of(a)]
        ) as item_ids,
        list_transform(packed_actions, lambda a: action_names[action_of(a)]) as actions,
        list_transform(
            packed_actions, lambda a: timestamp_of(a)
        ) as event_timestamps,
        items[item_index] as label_item_id,
        action_names[action_index] as label_action,
        make_timestamptz(event_us) as label_timestamp,
        -- When the label's action happened; for a random negative, when its positive did.
        make_timestamptz(happened_at) as happened_at,
        is_positive,
        is_random,
        (
            factor * case
                when is_random then $random_negative_weight
                when is_positive then 1.0
                else $negative_weight
            end
        )::float as weight,
        carried,
        -- The order, to merge the rows of buckets by.
        shuffle,
        item_index,
        action_index,
        draw,
    from named
)

select * from training_examples
