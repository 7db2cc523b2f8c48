# postfix_mta/init.sls
