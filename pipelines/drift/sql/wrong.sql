-- one row per measure that cannot be: it must find nothing. Reads `drift_measures`.
select
    back,
    measure,
    part,
    kind,
    amount,
    n_rows,
    case
        when not isfinite(amount) then 'a measure is a finite number'
        when kind in ('count', 'share', 'distance') and amount < 0 then 'no such measure is below 0'
        when kind = 'share' and amount > n_rows then 'a share is at most 1'
        when count(*) over (partition by back, measure, part) > 1 then 'each measure is there once'
    end as broken_rule,
from drift_measures
qualify broken_rule is not null
order by all
