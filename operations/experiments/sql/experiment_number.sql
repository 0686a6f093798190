-- one number in [0, 1) per unit of an experiment: that of operations/experiments/assignment.py
create or replace temp macro experiment_number(salt, experiment, unit) as
('0x' || sha256(concat(salt, '/', experiment, '/', unit::varchar))[1:13])::bigint
/ 4503599627370496.0;
