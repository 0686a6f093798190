-- one row per window: a member's last actions before as_of, packed, oldest first
-- (empty where there is none), and the positions of the first and last action that are its labels
-- Reads `example_actions` and `random_negatives`. Needs macros.sql.
-- The rule of a sequence stands in three places: last_actions.py, example_windows.sql and
-- `fold` in transformations/stream.py. tests/transformations/test_sequence_properties.py,
-- test_example_properties.py and test_stream_properties.py prove them equal.
-- Example: one member, inputs = 'before_label', labels = 'next', length 2, window 10 days. The
-- third action was ingested after the fourth happened, so the fourth's window lacks it.
--     position  day  ingested   window (positions)   first_label = last_label
--     1         1    1          none                 1
--     2         2    2          1                    2
--     3         5    7          1, 2                 3
--     4         6    6          1, 2                 4
with
ends as (
    select
        *,
        -- as_of: where a window ends. labels_from: when it could be read.
        case
            when $inputs = 'before_label' then event_us
            else midnight_of(event_us - $publish_delay_us)
        end as as_of,
        case
            when $inputs = 'before_label' then event_us
            else midnight_of(event_us - $publish_delay_us) + $publish_delay_us
        end as labels_from,
        -- Counted from the newest action, so that it is always a label.
        is_label and (n_actions - position) % $stride = 0 as is_picked,
    from example_actions
    where n_actions >= $min_actions
),

framed as (
    select
        *,
        -- One window has all of its labels; with `next`, each label has its own window.
        is_picked and (
            $labels = 'next'
            or row_number() over (
                partition by member_id, as_of, is_picked
                order by position
            ) = 1
        ) as is_chosen,
        event_us - labels_from + 1 as since_labels_from,
        -- At least 0, since a frame cannot end before its own row; training_examples.sql drops
        -- the labels beyond the horizon.
        greatest(labels_from + $horizon_us - 1 - event_us, 0) as until_horizon,
    from ends
),

labelled as (
    select
        *,
        case
            when $labels = 'next' then position
            else 1 + count(*) over (
                partition by member_id
                order by event_us
                range between unbounded preceding and since_labels_from preceding
            )
        end as first_label,
        case
            when $labels = 'next' then position
            else count(*) over (
                partition by member_id
                order by event_us
                range between unbounded preceding and until_horizon following
            )
        end as last_label,
    from framed
),

-- What can be in an input, random negatives too where they enter.
inputs as (
    select
        member_id,
        event_us,
        item_index,
        action_index,
        known_at,
        attributes,
        position,
        as_of,
        labels_from,
        is_chosen,
        first_label,
        last_label,
    from labelled
    union all
    select
        member_id,
        event_us,
        item_index,
        action_index,
        known_at,
        null as attributes,
        null as position,
        event_us as as_of,
        event_us as labels_from,
        false as is_chosen,
        null as first_label,
        null as last_label,
    from random_negatives
    where $random_negatives_in_inputs
),

packed as (
    select
        *,
        -- A random negative moved before 1970 cannot be packed, and is in no window.
        pack(greatest(event_us, 0), item_index, action_index) as packed_action,
        greatest(max(known_at - event_us) over (partition by member_id) + 1, 1) as latest_by,
    from inputs
),

offsets as (
    select
        *,
        event_us - as_of + 1 as since_as_of,
        event_us - as_of + latest_by as since_surely_known,
        event_us - as_of + $window_us + 1 as since_window,
    from packed
),

counted as (
    select
        *,
        row_number() over (partition by member_id order by packed_action) as row_index,
        count(*) over (
            partition by member_id
            order by event_us
            range between unbounded preceding and since_as_of preceding
        ) as n_before,
        -- Those that were known by as_of even with the member's longest delay.
        count(*) over (
            partition by member_id
            order by event_us
            range between unbounded preceding and since_surely_known preceding
        ) as n_surely_known,
        count(*) over (
            partition by member_id
            order by event_us
            range between unbounded preceding and since_window preceding
        ) as n_too_old,
    from offsets
),

bounded as (
    select
        *,
        row_index - 1 - greatest(n_too_old, n_surely_known - $length) as back_to_first,
        row_index - n_before as back_to_last,
    from counted
),

-- Frames by row keep each list about as short as the input, however active a member is.
listed as (
    select
        *,
        list(packed_action) over before_as_of as candidates,
        list(known_at) over before_as_of as candidates_known_at,
        list(attributes) over before_as_of as candidates_carry,
    from bounded
    window before_as_of as (
        partition by member_id
        order by packed_action
        rows between back_to_first preceding and back_to_last preceding
    )
),

chosen as (
    select
        member_id,
        as_of,
        labels_from,
        first_label,
        last_label,
        list_filter(
            list_zip(candidates, candidates_known_at, candidates_carry), lambda a: a[2] < as_of
        )[-$length:] as last_actions,
    from listed
    where is_chosen
),

unzipped as (
    select
        * exclude (last_actions),
        list_transform(last_actions, lambda a: a[1]) as packed_actions,
        list_transform(last_actions, lambda a: a[3]) as carried,
    from chosen
),

example_windows as (
    select
        *,
        coalesce(len(packed_actions), 0) as n_inputs,
    from unzipped
)

select * from example_windows
