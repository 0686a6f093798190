-- one row per line of ratings.dat: user::movie::rating 0-10::unix seconds
with
lines as (
    -- One column per line (no line holds a byte 1), since "::" is longer than one character.
    select
        line,
        row_number() over () as line_number,
    from read_csv(
        $path,
        columns = { 'line': 'varchar' },
        delim = '\x01',
        quote = '',
        escape = '',
        header = false,
        auto_detect = false,
        parallel = false
    )
),

fields as (
    select
        string_split(line, '::') as field,
        line,
        line_number,
    from lines
),

rated as (
    select
        *,
        try_cast(field[3] as integer) as rating,
    from fields
),

events as (
    select
        field[1] as member_id,
        try_cast(field[2] as bigint) as item_id,
        case
            when rating between 8 and 10 then 'APPLY'
            when rating between 6 and 7 then 'SAVE'
            when rating between 0 and 5 then 'DISMISS'
            else concat('RATING ', field[3])
        end as action,
        to_timestamp(try_cast(field[4] as bigint)) as event_timestamp,
        len(field) = 4 as whole,
        line,
        line_number,
    from rated
)

select * from events
