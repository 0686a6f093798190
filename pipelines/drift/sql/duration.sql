-- one row per day: the geometric mean of how long its actions took ($duration, a column)
-- Reads `drift_columns`. The error is that of its logarithm.
select
    back,
    'mean' as measure,
    name as part,
    'size' as kind,
    exp(avg(ln(number))) as amount,
    count(*) as n_rows,
    coalesce(stddev_samp(ln(number)), 1) / sqrt(count(*)) as error,
from drift_columns
where name = $duration and number > 0
group by back, name
