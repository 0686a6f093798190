-- one row per item shown in [$since, $until), with the arm of the experiment that it was shown in;
-- of an answer without an item one row, whose item and position are null
-- Reads `impressions`. `is_treatment` is null of what was shown in no arm of it; where $any_arm,
-- everything counts as the control.
select
    member_id,
    item_id,
    request_id,
    position,
    surface,
    path,
    seconds,
    release,
    shown_at,
    case
        when $any_arm then false
        when list_contains(string_split(arm, ' '), $treatment) then true
        when list_contains(string_split(arm, ' '), $control) then false
    end as is_treatment,
from impressions
where shown_at >= $since and shown_at < $until
