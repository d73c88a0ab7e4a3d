# fish completion for hark. It asks the program itself: verbs, options and boxes are what its --help lists; their
# descriptions stand behind a tab.

function __hark_words # on the line, up to where the cursor is
    commandline -opc
end

function __hark_verbs
    set -l words (__hark_words)
    $words[1] --help | sed -nE 's/^  ([a-z]+) +(.*)$/\1\t\2/p'
end

function __hark_help # of the verb on the line
    set -l words (__hark_words)
    test (count $words) -gt 1; and $words[1] $words[2] --help 2>/dev/null
end

function __hark_options
    __hark_help | sed -nE 's/^ +(-[[:alnum:]], )?(--[a-z0-9-]+)[^ ]*( [^ ]+)?  +(.*)$/\2\t\4/p'
end

function __hark_boxes
    __hark_help | sed -n '/^Boxes:/,$p' | sed -nE 's/^  ([a-z]+) +(.*)$/\1\t\2/p'
end

# The box on the line, or the "--" before a program; the status tells whether there is one. ./mine.so is a box, too: of
# its options nothing is known, as it is not loaded here.
function __hark_box
    set -l boxes (__hark_boxes | cut -f1)
    for word in (__hark_words)[3..]
        if test "$word" = --; or contains -- $word $boxes; or string match -q -- '*/*.so' $word
            printf '%s\n' $word # echo takes -- for itself
            return 0
        end
    end
    return 1
end

function __hark_box_options
    set -l box (__hark_box)
    test $box != --; or return
    printf '%s\n' --help
    set box (string replace -r '.*/' '' -- $box)
    __hark_help | sed -n '/^Boxes:/,$p' | sed -nE "/^  $box /,/^  [a-z]/{/^   /p}" | grep -oE -e '--[a-z0-9-]+'
end

function __hark_wants_box
    __hark_verb_is serve; and test (count (__hark_words)) -gt 2; and not __hark_box >/dev/null
end

# Whether a program is what comes next.
function __hark_wants_program
    contains -- (__hark_words)[-1] -- exec; and __hark_box >/dev/null
end

# The services of the harkd that runs here, if one does.
function __hark_services
    set -l words (__hark_words)
    $words[1] status --json --timeout 500ms 2>/dev/null | grep -o '"name":"[A-Za-z0-9._-]*"' | cut -d'"' -f4
end

function __hark_verb_is
    set -l words (__hark_words)
    test (count $words) -gt 1; and contains -- $words[2] $argv
end

function __hark_value_of # OPTION... is what is typed
    contains -- (__hark_words)[-1] $argv
end

function __hark_types_option
    string match -q -- '-*' (commandline -ct)
end

complete -c hark -f -n 'test (count (__hark_words)) -eq 1' -a '(__hark_verbs)'
complete -c hark -n '__hark_types_option; and not __hark_box >/dev/null' -a '(__hark_options)'
complete -c hark -n '__hark_types_option; and __hark_box >/dev/null' -a '(__hark_box_options)'
complete -c hark -n '__hark_wants_box' -a '(__hark_boxes)'
complete -c hark -n __hark_wants_program -a '(__fish_complete_command)'
complete -c hark -f -n '__hark_verb_is status connections stop start' -a '(__hark_services)'
complete -c hark -f -n '__hark_verb_is close reload drain upgrade'
complete -c hark -n '__hark_verb_is loggedin' -a '(__fish_complete_users)'
complete -c hark -f -n '__hark_value_of --user --socket-user --unix-owner' -a '(__fish_complete_users)'
complete -c hark -f -n '__hark_value_of --group --groups --socket-group' -a '(__fish_complete_groups)'
complete -c hark -f -n '__hark_value_of --chroot --directory' -a '(__fish_complete_directories)'
for option in first:'client server' model:'inline process thread fiber' engine:'epoll uring poll' \
    format:'inetd xinetd systemd'
    set -l pair (string split -m1 : $option)
    complete -c hark -f -n "__hark_value_of --$pair[1]" -a $pair[2]
end
