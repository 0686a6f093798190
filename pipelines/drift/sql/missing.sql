-- one row per day and column: the share of rows without a value. Reads `drift_columns`.
select
    back,
    'missing' as measure,
    name as part,
    'share' as kind,
    count(*) filter (where number is null and word is null)::double as amount,
    count(*) as n_rows,
    null::double as error,
from drift_columns
where name <> 'hour'
group by back, name
