-- one row per day and column of numbers: how far its values are from those of the days before
-- Reads `drift_columns`. The Kolmogorov-Smirnov distance
-- (https://en.wikipedia.org/wiki/Kolmogorov-Smirnov_test): the most by which the shares of values
-- up to a number differ, at the hundredths of the days before. A day of those is compared with the
-- rest of them.
with
numbers as (
    select
        back,
        name,
        number,
    from drift_columns
    where number is not null
),

edges as (
    select
        name,
        unnest(
            quantile_disc(number, list_transform(range(1, 100), lambda n: n / 100))  -- noqa: RF02
        ) as edge,
    from numbers
    where back > 0
    group by name
),

distinct_edges as (
    select distinct
        name,
        edge,
    from edges
),

counts as (
    select
        numbers.back,
        numbers.name,
        distinct_edges.edge,
        count(*) as n_rows,
    from numbers
    asof left join distinct_edges
        on numbers.name = distinct_edges.name and numbers.number <= distinct_edges.edge
    group by all
),

totals as (
    select
        back,
        name,
        sum(n_rows)::bigint as n_day,
    from counts
    group by back, name
),

grid as (
    select
        totals.back,
        totals.name,
        distinct_edges.edge,
        totals.n_day,
        coalesce(counts.n_rows, 0) as n_own,
    from totals
    inner join distinct_edges on totals.name = distinct_edges.name
    left join counts
        on
            totals.back = counts.back
            and totals.name = counts.name
            and distinct_edges.edge = counts.edge
),

sums as (
    select
        back,
        name,
        n_day,
        sum(n_own) over (partition by back, name order by edge) as n_own,
        sum(if(back > 0, n_own, 0)) over (partition by name order by edge) as n_before,
    from grid
),

before as (
    select
        name,
        sum(n_day) as n_before,
    from totals
    where back > 0
    group by name
),

distance as (
    select
        sums.back,
        'ks distance' as measure,
        sums.name as part,
        'distance' as kind,
        max(
            abs(
                sums.n_own / sums.n_day
                - (sums.n_before - if(sums.back > 0, sums.n_own, 0))
                / (before.n_before - if(sums.back > 0, sums.n_day, 0))
            )
        ) as amount,
        max(sums.n_day) as n_rows,
        null::double as error,
    from sums
    inner join before on sums.name = before.name
    where sums.back = 0 or before.n_before > sums.n_day
    group by sums.back, sums.name
)

select * from distance
