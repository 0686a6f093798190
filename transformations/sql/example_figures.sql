-- one row: what the examples of some members are made of
-- Reads `training_examples`, `example_windows`, `example_actions` and `item_indexes`. Needs
-- macros.sql.
with
windows as (
    select
        member_id,
        as_of,
        any_value(len(item_ids)) as length,
    from training_examples
    group by member_id, as_of
),

windows_of_members as (
    select
        member_id,
        count(*) as n_windows,
    from windows
    group by member_id
),

lengths as (
    select
        length,
        count(*) as n_windows,
    from windows
    group by length
),

acted_on as (
    select distinct
        example_actions.member_id,
        item_indexes.item_id,
    from example_actions
    inner join item_indexes on example_actions.item_index = item_indexes.item_index
),

hits as (
    select examples.member_id
    from training_examples as examples
    semi join
        acted_on
        on
            examples.member_id = acted_on.member_id
            and examples.label_item_id = acted_on.item_id
    where examples.is_random
),

totals as (
    select
        count(*) as examples,
        count(*) filter (where is_positive) as positives,
        count(*) filter (where not is_positive and not is_random) as negatives,
        count(*) filter (where is_random) as random_negatives,
        coalesce(
            list(distinct day_of(epoch_us(happened_at))) filter (where is_random), []
        ) as days,
    from training_examples
),

of_members as (
    select
        count(*) as members,
        coalesce(max(n_windows), 0) as windows_most,
        coalesce(sum(n_windows), 0)::bigint as windows,
    from windows_of_members
),

of_dropped as (
    select count(distinct member_id) as members_dropped
    from example_actions
    where n_actions < $min_actions
),

of_empty as (
    select count(*) as windows_empty
    from example_windows
    where n_inputs = 0
),

of_hits as (
    select count(*) as random_negatives_acted_on
    from hits
),

of_lengths as (
    select coalesce(map_from_entries(list((length, n_windows) order by length)), map()) as lengths
    from lengths
),

example_figures as (
    select
        totals.*,
        of_members.*,
        of_dropped.*,
        of_empty.*,
        of_hits.*,
        of_lengths.*,
    from totals
    cross join of_members
    cross join of_dropped
    cross join of_empty
    cross join of_hits
    cross join of_lengths
)

select * from example_figures
