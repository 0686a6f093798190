-- one row per action in [$since, $until), as if it were shown: who would be in an experiment
-- Reads `experiment_activity`. For times from which no impressions are there.
select
    member_id,
    item_id,
    null::varchar as request_id,
    null::bigint as position,
    null::varchar as surface,
    null::varchar as path,
    null::double as seconds,
    null::varchar as release,
    event_timestamp as shown_at,
    false as is_treatment,
from experiment_activity
where event_timestamp >= $since and event_timestamp < $until
