-- one row: which share of the treatment's lists another release than $treatment made; null of none
-- Reads `exposures`.
select
    count(distinct request_id) filter (where release is distinct from $treatment)
    / nullif(count(distinct request_id), 0) as share,
from exposures
where is_treatment
