-- one row per window: a member's last actions before as_of, packed, oldest first (null
-- where there is none), and the places of the first and last action that are its labels
-- Reads `example_actions` and `random_negatives`.
with
ends as (
    select
        *,
        -- as_of: where a window ends. labels_from: when it could be read.
        case
            when $inputs = 'before_label' then moment
            else (moment - $publish_delay_us) // 86400000000 * 86400000000
        end as as_of,
        case
            when $inputs = 'before_label' then moment
            else
                (moment - $publish_delay_us) // 86400000000 * 86400000000 + $publish_delay_us
        end as labels_from,
        -- Counted from the newest action, so that it is always a label.
        (n_actions - position) % $stride = 0 as is_picked,
    from example_actions
    where n_actions >= $min_actions
),

framed as (
    select
        *,
        -- One window has all of its labels; with `next`, each label has a window of its own.
        is_picked and (
            $labels = 'next'
            or row_number() over (
                partition by member_id, as_of, is_picked
                order by position
            ) = 1
        ) as is_chosen,
        moment - labels_from + 1 as since_labels_from,
        -- Not before its own action: the horizon may end there. Labels beyond are left out where
        -- they are joined.
        greatest(labels_from + $horizon_us - 1 - moment, 0) as until_horizon,
    from ends
),

labelled as (
    select
        *,
        case
            when $labels = 'next' then position
            else 1 + count(*) over (
                partition by member_id
                order by moment
                range between unbounded preceding and since_labels_from preceding
            )
        end as first_label,
        case
            when $labels = 'next' then position
            else count(*) over (
                partition by member_id
                order by moment
                range between unbounded preceding and until_horizon following
            )
        end as last_label,
    from framed
),

-- What can be in an input, random negatives too where they enter.
inputs as (
    select
        member_id,
        moment,
        item_place,
        action_place,
        known_at,
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
        moment,
        item_place,
        action_place,
        known_at,
        null as position,
        moment as as_of,
        moment as labels_from,
        false as is_chosen,
        null as first_label,
        null as last_label,
    from random_negatives
    where $random_negatives_in_inputs
),

packed as (
    select
        *,
        -- One number that sorts as (event_timestamp, item_id, action). A moment that was moved
        -- before 1970 cannot be packed, nor is it in anyone's window.
        (greatest(moment, 0)::uhugeint << 64)
        | (item_place::uhugeint << 16)
        | action_place::uhugeint as packed_action,
        greatest(max(known_at - moment) over (partition by member_id) + 1, 1) as latest_by,
    from inputs
),

known as (
    select
        *,
        moment - as_of + 1 as since_as_of,
        moment - as_of + latest_by as since_surely_known,
        moment - as_of + $window_us + 1 as since_window,
    from packed
),

counted as (
    select
        *,
        row_number() over (partition by member_id order by packed_action) as place,
        count(*) over (
            partition by member_id
            order by moment
            range between unbounded preceding and since_as_of preceding
        ) as n_before,
        -- Those of them that were known by as_of, however late this member's actions come in.
        count(*) over (
            partition by member_id
            order by moment
            range between unbounded preceding and since_surely_known preceding
        ) as n_surely_known,
        count(*) over (
            partition by member_id
            order by moment
            range between unbounded preceding and since_window preceding
        ) as n_too_old,
    from known
),

bounded as (
    select
        *,
        place - 1 - greatest(n_too_old, n_surely_known - $length) as back_to_first,
        place - n_before as back_to_last,
    from counted
),

-- Frames by place keep each list about as short as the input, however much a member did.
listed as (
    select
        *,
        list(packed_action) over before_as_of as candidates,
        list(known_at) over before_as_of as candidates_known_at,
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
        list_transform(
            list_filter(
                list_zip(candidates, candidates_known_at), lambda a: a[2] < as_of
            )[-$length:],
            lambda a: a[1]
        ) as packed_actions,
    from listed
    where is_chosen
),

example_windows as (
    select
        *,
        coalesce(len(packed_actions), 0) as n_inputs,
    from chosen
)

select * from example_windows
