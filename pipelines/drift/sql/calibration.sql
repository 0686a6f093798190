-- one row per ranker: how much more it promised than came of what it showed in [$since, $until)
-- Reads `attributed_impressions` and `drift_weights` (ranker, action, weight). What came of an item
-- is the weight of the action on it. In standard deviations of it (Cohen's d), of which half a row
-- is an action, so that a day without any has one.
with
rankers as (
    select distinct ranker,
    from drift_weights
),

ended as (
    select
        ranker,
        action,
        score,
    from attributed_impressions
    where
        score is not null
        and is_over
        and shown_at >= $since
        and shown_at < $until
),

shown as (
    select
        ended.ranker,
        ended.score,
        coalesce(drift_weights.weight, 0) as outcome,
    from ended
    inner join rankers on ended.ranker = rankers.ranker
    left join drift_weights
        on ended.ranker = drift_weights.ranker and ended.action = drift_weights.action
),

means as (
    select
        ranker,
        count(*) as n_rows,
        avg(score) - avg(outcome) as surplus,
        stddev_pop(score - outcome) as deviation,
        sqrt(var_pop(outcome) + 0.5 / count(*)) as scale,
    from shown
    group by ranker
)

select
    0 as back,
    'calibration' as measure,
    ranker as part,
    'effect' as kind,
    surplus / scale as amount,
    n_rows,
    deviation / sqrt(n_rows) / scale as error,
from means
