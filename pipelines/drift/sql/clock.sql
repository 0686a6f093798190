-- one row per day: how many hours its mean time of day lies after that of the days before
-- Reads `drift_activity`. The circular mean (https://en.wikipedia.org/wiki/Circular_mean), and its
-- standard error in hours, which grows without bound where no time of day is preferred.
with
angles as (
    select
        back,
        2 * pi() * (epoch_us(event_timestamp) % 86400000000) / 86400000000 as angle,
    from drift_activity
),

means as (
    select
        back,
        count(*) as n_rows,
        atan2(avg(sin(angle)), avg(cos(angle))) as angle,
        sqrt(avg(sin(angle)) ** 2 + avg(cos(angle)) ** 2) as concentration,
    from angles
    group by back
),

before as (
    select atan2(avg(sin(angle)), avg(cos(angle))) as angle,
    from angles
    where back > 0
),

clock as (
    select
        means.back,
        'clock' as measure,
        '' as part,
        'hours' as kind,
        12 / pi() * atan2(sin(means.angle - before.angle), cos(means.angle - before.angle))
            as amount,
        means.n_rows,
        12 / pi() * sqrt(greatest(1 - means.concentration ** 2, 0) / (2 * means.n_rows))
        / greatest(means.concentration, 1e-6) as error,
    from means
    cross join before
    where before.angle is not null
)

select * from clock
