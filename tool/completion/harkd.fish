# fish completion for harkd. It asks the program itself: its options are what its --help lists.

function __harkd_options
    set -l words (commandline -opc)
    $words[1] --help | sed -nE 's/^ +(-[[:alnum:]], )?(--[a-z0-9-]+)[^ ]*( [^ ]+)?  +(.*)$/\2\t\4/p'
end

complete -c harkd -n 'string match -q -- "-*" (commandline -ct)' -a '(__harkd_options)'
