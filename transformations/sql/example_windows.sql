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
        (n_actions - position) % $stride = 0 as is_chosen,
    from example_actions
    where n_actions >= $min_actions
),

labelled as (
    select
        *,
        case
            when $labels = 'next' then position
            else 1 + count(*) over (
                partition by member_id
                order by moment
                range between unbounded preceding and (moment - labels_from + 1) preceding
            )
        end as first_label,
        case
            when $labels = 'next' then position
            -- Not before its own action: the horizon may end there. Labels beyond are left out
            -- where they are joined.
            else count(*) over (
                partition by member_id
                order by moment
                range between unbounded preceding
                and greatest(labels_from + $horizon_us - 1 - moment, 0) following
            )
        end as last_label,
    from ends
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

counted as (
    select
        *,
        row_number() over (partition by member_id order by packed_action) as place,
        count(*) over (
            partition by member_id
            order by moment
            range between unbounded preceding and (moment - as_of + 1) preceding
        ) as n_before,
        -- Those of them that were known by as_of, however late this member's actions come in.
        count(*) over (
            partition by member_id
            order by moment
            range between unbounded preceding and (moment - as_of + latest_by) preceding
        ) as n_surely_known,
        count(*) over (
            partition by member_id
            order by moment
            range between unbounded preceding and (moment - as_of + $window_us + 1) preceding
        ) as n_too_old,
    from packed
),

-- Frames by place keep each list about as short as the input, however much a member did.
listed as (
    select
        *,
        list(packed_action) over before_as_of as candidates,
        list(known_at) over before_as_of as candidates_known_at,
    from counted
    window before_as_of as (
        partition by member_id
        order by packed_action
        rows between
        (place - 1 - greatest(n_too_old, n_surely_known - $length)) preceding
        and (place - n_before) preceding
    )
),

chosen as (
    select
        member_id,
        position,
        as_of,
        labels_from,
        first_label,
        last_label,
        list_filter(
            candidates, lambda a, i: candidates_known_at[i] < as_of
        )[-$length:] as packed_actions,
    from listed
    where is_chosen
    -- One window has all of its labels; with `next`, each label has a window of its own.
    qualify
        $labels = 'next'
        or row_number() over (partition by member_id, as_of order by position) = 1
),

example_windows as (
    select
        *,
        coalesce(len(packed_actions), 0) as n_inputs,
    from chosen
)

select * from example_windows
