"""Who gets which address: read the request, judge the address, settle the claims."""
